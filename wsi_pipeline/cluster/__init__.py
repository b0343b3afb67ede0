"""Where tasks run: this machine, a batch system, Kubernetes, or any Dask scheduler by address."""
