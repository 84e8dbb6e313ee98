"""Pages and an API that this machine serves: one web stack for all of them."""
