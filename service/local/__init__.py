"""The whole service on one machine: Redis, the front end and workers as processes of their own.

`python -m service.local` is the supervisor; `upweight serve`, the demo and the tests all start that.
"""
