set(deps index cache testing)
