// Functional bins of residue_commands: which commands, outcomes and shapes the benches went through.
`default_nettype none

module residue_commands_bins
  import residue_abi_pkg::*;
(
  input wire logic       clk,
  input wire logic       done_i,       // a command completed
  input wire logic [7:0] opcode_i,
  input wire logic [7:0] window_i,
  input wire logic [7:0] status_i,
  input wire logic       started_i,    // its job starts
  input wire logic       half_i,       // a modulus of the lower class
  input wire logic       same_i,       // with the modulus that the stores hold
  input wire logic       several_i,    // of more elements than a group has
  input wire logic       aborted_i,
  input wire logic       wrapped_i     // HEAD past the queue's size
);

  wire logic ok   = done_i && status_i == 8'(StatusOk);
  wire logic comb = started_i && (opcode_i == 8'(OpPowFixed) || opcode_i == 8'(OpMultiPow));

  c_opcode_nop : cover property (@(posedge clk) ok && opcode_i == 8'(OpNop));
  c_opcode_to_mont : cover property (@(posedge clk) ok && opcode_i == 8'(OpToMont));
  c_opcode_from_mont : cover property (@(posedge clk) ok && opcode_i == 8'(OpFromMont));
  c_opcode_mul : cover property (@(posedge clk) ok && opcode_i == 8'(OpMul));
  c_opcode_pow : cover property (@(posedge clk) ok && opcode_i == 8'(OpPow));
  c_opcode_pow_fixed : cover property (@(posedge clk) ok && opcode_i == 8'(OpPowFixed));
  c_opcode_multi_pow : cover property (@(posedge clk) ok && opcode_i == 8'(OpMultiPow));
  c_opcode_prod : cover property (@(posedge clk) ok && opcode_i == 8'(OpProd));
  c_opcode_sqr : cover property (@(posedge clk) ok && opcode_i == 8'(OpSqr));
  c_opcode_table : cover property (@(posedge clk) ok && opcode_i == 8'(OpTable));
  c_opcode_selftest : cover property (@(posedge clk) ok && opcode_i == 8'(OpSelftest));
  c_opcode_clear : cover property (@(posedge clk) ok && opcode_i == 8'(OpClear));
  c_status_unknown_opcode : cover property (@(posedge clk) done_i && status_i == 8'(StatusUnknownOpcode));
  c_status_unaligned : cover property (@(posedge clk) done_i && status_i == 8'(StatusUnaligned));
  c_status_out_of_window : cover property (@(posedge clk) done_i && status_i == 8'(StatusOutOfWindow));
  c_status_even_modulus : cover property (@(posedge clk) done_i && status_i == 8'(StatusEvenModulus));
  c_status_bad_modulus : cover property (@(posedge clk) done_i && status_i == 8'(StatusBadModulus));
  c_status_zero_count : cover property (@(posedge clk) done_i && status_i == 8'(StatusZeroCount));
  c_status_exponent_too_long : cover property (@(posedge clk) done_i && status_i == 8'(StatusExponentTooLong));
  c_status_bad_window : cover property (@(posedge clk) done_i && status_i == 8'(StatusBadWindow));
  c_status_read_error : cover property (@(posedge clk) done_i && status_i == 8'(StatusReadError));
  c_status_write_error : cover property (@(posedge clk) done_i && status_i == 8'(StatusWriteError));
  c_status_selftest_failed : cover property (@(posedge clk) done_i && status_i == 8'(StatusSelftestFailed));
  c_status_bad_stride : cover property (@(posedge clk) done_i && status_i == 8'(StatusBadStride));
  c_status_store_error : cover property (@(posedge clk) done_i && status_i == 8'(StatusStoreError));
  c_status_bad_check : cover property (@(posedge clk) done_i && status_i == 8'(StatusBadCheck));
  c_window_1 : cover property (@(posedge clk) comb && window_i == 8'd1);
  c_window_2 : cover property (@(posedge clk) comb && window_i == 8'd2);
  c_window_4 : cover property (@(posedge clk) comb && window_i == 8'd4);
  c_window_8 : cover property (@(posedge clk) comb && window_i == 8'd8);
  c_modulus_small   : cover property (@(posedge clk) started_i && half_i);
  c_modulus_large   : cover property (@(posedge clk) started_i && !half_i);
  c_modulus_kept    : cover property (@(posedge clk) started_i && same_i);
  c_modulus_loaded  : cover property (@(posedge clk) started_i && !same_i);
  c_one_group       : cover property (@(posedge clk) started_i && !several_i);
  c_several_groups  : cover property (@(posedge clk) started_i && several_i);
  c_abort           : cover property (@(posedge clk) aborted_i);
  c_queue_wraps     : cover property (@(posedge clk) done_i && wrapped_i);

endmodule

bind residue_commands residue_commands_bins i_bins (
  .clk, .done_i(command_o), .opcode_i(command.opcode), .window_i(command.window),
  .status_i(8'(status_q)), .started_i(start_o), .half_i(half_q), .same_i(same_modulus_q),
  .several_i(job_q.count > 32'(job_q.cap)), .aborted_i(abort_o),
  .wrapped_i(head_q >= queue_size_i)
);

`default_nettype wire
