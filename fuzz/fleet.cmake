set(deps fleet)
