"""The commands of `ratel` that are no service's own, and what commands share."""
