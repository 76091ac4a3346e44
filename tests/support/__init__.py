"""What tests share: small networks and their archives, servers in processes of their own, how to wait."""
