-- Shared by the mutations, between the checks and the writes: a refusal is stored under the token,
-- so that a repeated request is refused again even when the balance has changed since.
    if refusal then
      local stored = try('SET', KEYS[key + 2], mark .. refusal, 'PX', ARGV[at + 2])
      replies[place] = stored.err and stored or refusal
      break
    end
