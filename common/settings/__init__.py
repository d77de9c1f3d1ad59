"""Options of commands, and where their values come from: flags, environment, file."""
