--[[
Purpose: create an account; one that exists is kept as it is, or replaced when told to. A replaced
account's journal goes on with the next sequence number.

KEYS:
  1  HASH    account
  2  STREAM  journal
ARGV:
  1  1 to replace an account that exists, else 0
  2  about how many journal lines are kept
  3  token, for the journal
  4  credit, micros
  5  SMS, micros
  6  traffic, micros
  7  volume discount counter, micros
  8  received seconds counter, micros
  9  the buckets as netstrings, for the journal
  10… pairs of field and value: everything else that the hash holds
Returns: Opened, Replaced or Kept
Errors: none
]]
local call = redis.call
local known = call('HGET', KEYS[1], 'seq')
if known and ARGV[1] ~= '1' then
  return 'Kept'
end
local op, outcome, seq = 'Open', 'Opened', '1'
if known then
  op, outcome, seq = 'Load', 'Replaced', string.format('%.0f', known + 1)
end
-- First what a store without memory refuses: it lets a script go on that has begun to write.
call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'seq', seq, 'op', op, 'amount', '0',
  'token', ARGV[3], 'credit', ARGV[4], 'sms', ARGV[5], 'traffic', ARGV[6],
  'volume_discount', ARGV[7], 'received', ARGV[8], 'buckets', ARGV[9])
call('DEL', KEYS[1])
call('HSET', KEYS[1], 'seq', seq, 'credit', ARGV[4], 'sms', ARGV[5], 'traffic', ARGV[6],
  'volume_discount', ARGV[7], 'received', ARGV[8], unpack(ARGV, 10))
return outcome
