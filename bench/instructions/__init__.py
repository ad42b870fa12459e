"""Instructions a message, counted by callgrind: `python bench/instructions`."""
