"""A server's life: started, watched, told of, started again, stopped."""
