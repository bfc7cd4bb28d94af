"""Layer A: frozen structs, plain data. Nothing here touches a file, a socket, the clock or a key."""
