--[[
Purpose: count placed seconds towards the volume discount; a negative amount takes back.

KEYS: for each request three
  1  STRING  account
  2  STREAM  journal
  3  STRING  token
ARGV: first one for all, then for each request four
  1  about how many journal lines are kept
  2  amount, micros
  3  destination without control characters: with method and amount the request's fingerprint
  4  how long the token lives, ms
  5  deadline on the store's clock, µs; 0 is none
Returns: a list, for each request one: OK <counter>
Errors: in the place of the request
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'AddVolumeDiscountSeconds', 4
--@include _begin.lua
    local total = volume_discount + amount
    if total > LIMIT or total < -LIMIT then
      refusal = 'OutOfRange volume_discount'
    end
--@include _refuse.lua
    volume_discount = total
    local result, extra, behind = format('%.0f', total), NONE, ''
--@include _journal.lua
--@include _commit.lua
--@include _finish.lua
