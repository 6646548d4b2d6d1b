"""Where items come from; each source yields rows once."""
