-- Shared by the mutations, last: the journal line with the balances after the change (`extra` is a
-- list of further fields and values), the token with the outcome, and the reply.
call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'seq', seq, 'op', op, 'amount', ARGV[6],
  'token', ARGV[5], 'credit', credit, 'sms', sms, 'traffic', traffic,
  'volume_discount', volume_discount, 'received', received, unpack(extra))
local outcome = 'OK ' .. result
call('SET', KEYS[3], ARGV[1] .. '\n' .. outcome, 'PX', ARGV[2])
return outcome
