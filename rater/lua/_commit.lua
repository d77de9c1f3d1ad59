-- Shared by the mutations, behind the journal line: what the account is to hold, the token with the
-- outcome, and the reply.
    changed = balances .. behind
    local outcome = 'OK ' .. result
    call('SET', KEYS[key + 2], mark .. outcome, 'PX', ARGV[at + 2])
    replies[place] = outcome
