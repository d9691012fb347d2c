"""Which requests run in this worker and in the others, and how an admin ends one."""
