-- Shared by the mutations that need no buckets: the balances as texts, and the next sequence
-- number. Texts that a verb leaves alone go into the journal as they are.
local row = call('HMGET', KEYS[1], 'seq', 'credit', 'sms', 'traffic', 'volume_discount', 'received', 'min_credit')
if not row[1] then
  return 'UnknownSubject'
end
local seq = string.format('%.0f', row[1] + 1)
local credit, sms, traffic, volume_discount, received = row[2], row[3], row[4], row[5], row[6]
