// Functional bins of residue_fifo: the states between which its handshakes differ.
`default_nettype none

module residue_fifo_bins (
  input wire logic clk,
  input wire logic push_i,
  input wire logic pop_i,
  input wire logic full_i,
  input wire logic empty_i,
  input wire logic clear_i
);

  c_full        : cover property (@(posedge clk) full_i);
  c_refuses     : cover property (@(posedge clk) full_i && !pop_i);
  c_both        : cover property (@(posedge clk) push_i && pop_i);
  c_into_empty  : cover property (@(posedge clk) push_i && empty_i);
  c_cleared     : cover property (@(posedge clk) clear_i && !empty_i);

endmodule

bind residue_fifo residue_fifo_bins i_bins (
  .clk, .push_i(push), .pop_i(pop), .full_i(!s_ready), .empty_i(!m_valid), .clear_i
);

`default_nettype wire
