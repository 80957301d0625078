"""What runs in a worker: build the object, loop, call, reply. Nothing here imports a room of the parent."""
