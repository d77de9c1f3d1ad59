--[[
Purpose: take an amount from the credit; a negative amount gives back.

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
Returns: OK <credit left>
Errors:
  BelowFloor <credit> <floor>
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
--@include _begin.lua
--@include _balances.lua
local op, extra = 'DebitBalance', {}
local left = credit - amount
local floor = row[7]
if floor and amount > 0 and left < tonumber(floor) then
  refusal = 'BelowFloor ' .. credit .. ' ' .. floor
elseif left > LIMIT or left < -LIMIT then
  refusal = 'OutOfRange credit'
end
--@include _refuse.lua
credit = string.format('%.0f', left)
local result = credit
--@include _journal.lua
call('HSET', KEYS[1], 'seq', seq, 'credit', credit)
--@include _finish.lua
