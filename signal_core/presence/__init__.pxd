"""Who is in a room: joins and leaves, rosters, and the same across nodes.

Cimports the folders up to delivery/."""
