set(deps engine)
