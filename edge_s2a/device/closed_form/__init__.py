"""Learns in one pass: a ridge classifier in closed form on pooled features of the frozen backbone."""
