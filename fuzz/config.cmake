set(deps api)
