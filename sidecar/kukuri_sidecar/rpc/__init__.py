"""The contract with the host: structs, methods, events, stdio. Knows JSON; knows no sockets."""
