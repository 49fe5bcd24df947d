"""Several processes that host the same connectors on one port, for machines with more cores than one.

    supervisor   keeps the processes running, shows the metrics and the health of all; hosts nothing itself
     ├─ process 0    a host, which listens on the gRPC port with SO_REUSEPORT
     ├─ process 1    another one; the kernel gives each new connection to one of them
     └─ …

To keep the supervisor's process small, nothing is imported here. It and each process talk over a pair of sockets
(`control`). A process whose supervisor is gone drains.
"""
