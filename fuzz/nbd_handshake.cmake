set(deps format nbd testing_disk sim)
