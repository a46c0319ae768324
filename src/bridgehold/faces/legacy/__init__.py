"""The plug for DSPex and Snakepit: their wire on stdin and stdout, as a client of the host."""
