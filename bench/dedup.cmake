set(deps pool volume engine io)
