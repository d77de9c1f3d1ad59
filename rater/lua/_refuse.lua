-- Shared by the mutations, between the checks and the writes: a refusal is stored under the token,
-- so that a repeated request is refused again even when the balance has changed since.
if refusal then
  call('SET', KEYS[3], ARGV[1] .. '\n' .. refusal, 'PX', ARGV[2])
  return refusal
end
