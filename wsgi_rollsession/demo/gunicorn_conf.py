"""gunicorn's settings for the demo. In a file, since gunicorn ignores here what its release does not know."""

workers = 2
worker_class = "gthread"
threads = 4
keepalive = 75
graceful_timeout = 5
loglevel = "warning"
control_socket_disable = True  # gunicorn 25 and later would make a socket in the home folder
