-- Shared by what changes buckets: what the account is to hold behind its balances.
    behind = pack('<i8BBBBI4', min_credit, reset_day, postpaid, has_floor, count, plan_size) .. plan .. packed
