"""The backend that runs tasks in this process and keeps them on this machine."""
