-- Shared by the mutations, first: a repeated token is answered as it was the first time, and what
-- is past its deadline is dropped. A token's value is the fingerprint, a newline (which no
-- fingerprint holds) and the outcome. A replayed outcome is marked by a leading asterisk. A replay
-- makes the token live anew, and must: who waits for the replicas or the disk waits for the last
-- write of this connection, and the first outcome may have been written on another one.
local call = redis.call
local known = call('GET', KEYS[3])
if known then
  local mark = ARGV[1] .. '\n'
  if string.sub(known, 1, #mark) == mark then
    call('PEXPIRE', KEYS[3], ARGV[2])
    return '*' .. string.sub(known, #mark + 1)
  end
  return 'KeyReused'
end
if ARGV[3] ~= '0' then
  local now = call('TIME')
  if now[1] * 1e6 + now[2] > tonumber(ARGV[3]) then
    return 'Expired'
  end
end
local LIMIT = 9007199254740991 -- 2^53 - 1: the largest integer that a balance may reach
local amount = tonumber(ARGV[6])
local refusal
