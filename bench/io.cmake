set(deps io)
