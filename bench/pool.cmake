set(deps pool testing)
