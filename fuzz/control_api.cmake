set(deps api testing)
