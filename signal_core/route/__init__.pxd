"""Routes messages to a peer or to the members of a room; membership of rooms; receipts.

Cimports the folders up to presence/."""
