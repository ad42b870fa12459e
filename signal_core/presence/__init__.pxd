"""Presence: the joins, leaves and rosters of rooms, on a node and across nodes.

Cimports the folders up to delivery/."""
