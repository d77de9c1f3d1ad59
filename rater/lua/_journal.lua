-- Shared by the mutations, the first of their writes: the journal line with the balances after the
-- change (`extra` is a list of further fields and values). It is the one write that can fail where the
-- account itself is in order (a journal key of another type), and what fails first changes nothing. A
-- journal is trimmed with every 64th line: whole nodes of 100 go at a time anyway.
    seq = seq + 1
    local balances = pack('<i8i8i8i8i8i8', seq, credit, sms, traffic, volume_discount, received)
    local did, line = OP .. ' ' .. ARGV[at] .. ' ' .. sub(KEYS[key + 2], #KEYS[key]), nil
    if seq % 64 == 0 then
      line = try('XADD', KEYS[key + 1], 'MAXLEN', '~', ARGV[1], '*', 'did', did, 'after', balances, unpack(extra))
    else
      line = try('XADD', KEYS[key + 1], '*', 'did', did, 'after', balances, unpack(extra))
    end
    if line.err then
      save()
      account = nil
      replies[place] = line
      break
    end
