"""Rating files of call records: read, rated by a cluster or offline, written with what each call costs."""
