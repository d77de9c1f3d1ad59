-- Shared by the mutations, the first of their writes: the journal line with the balances after the
-- change (`extra` is a list of further fields and values). It is the one write that can fail where the
-- account itself is in order (a journal key of another type), and what fails first changes nothing.
call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'seq', seq, 'op', op, 'amount', ARGV[6],
  'token', ARGV[5], 'credit', credit, 'sms', sms, 'traffic', traffic,
  'volume_discount', volume_discount, 'received', received, unpack(extra))
