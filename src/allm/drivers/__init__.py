"""What performs effects: the only place with sockets, threads, tasks and clocks."""
