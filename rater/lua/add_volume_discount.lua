--[[
Purpose: count placed seconds towards the volume discount; a negative amount takes back.

KEYS:
  1  HASH    account
  2  STREAM  journal
  3  STRING  token
ARGV:
  1  fingerprint of the request
  2  how long the token lives, ms
  3  deadline on the store's clock, µs; 0 is none
  4  about how many journal lines are kept
  5  token, for the journal
  6  amount, micros
Returns: OK <counter>
Errors:
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
--@include _begin.lua
--@include _balances.lua
local op, extra = 'AddVolumeDiscountSeconds', {}
local total = volume_discount + amount
if total > LIMIT or total < -LIMIT then
  refusal = 'OutOfRange volume_discount'
end
--@include _refuse.lua
volume_discount = string.format('%.0f', total)
local result = volume_discount
--@include _journal.lua
call('HSET', KEYS[1], 'seq', seq, 'volume_discount', volume_discount)
--@include _finish.lua
