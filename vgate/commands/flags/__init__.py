"""The flags of other servers, as settings of V-Gate."""
