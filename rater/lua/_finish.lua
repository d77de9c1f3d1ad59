-- Shared by the mutations, last: the token with the outcome, and the reply.
local outcome = 'OK ' .. result
call('SET', KEYS[3], ARGV[1] .. '\n' .. outcome, 'PX', ARGV[2])
return outcome
