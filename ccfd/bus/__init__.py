"""RabbitMQ: what comes in is stored and acknowledged; what is stored to be said is published."""
