// Functional bins of residue_row_pack: how rows lie in beats.
`default_nettype none

module residue_row_pack_bins #(
  parameter int unsigned Rows = 1
) (
  input wire logic            clk,
  input wire logic            beat_i,        // leaves
  input wire logic [Rows-1:0] keep_i,
  input wire logic            last_i,
  input wire logic            beat_waits_i,
  input wire logic            row_waits_i,
  input wire logic            clear_i,
  input wire logic            idle_i
);

  c_whole_beat     : cover property (@(posedge clk) beat_i && Rows > 1 && keep_i == '1);
  c_begins_inside  : cover property (@(posedge clk) beat_i && !keep_i[0]);
  c_ends_inside    : cover property (@(posedge clk) beat_i && last_i && !keep_i[Rows-1]);
  c_beat_waits     : cover property (@(posedge clk) beat_waits_i);
  c_row_waits      : cover property (@(posedge clk) row_waits_i);
  c_cleared        : cover property (@(posedge clk) clear_i && !idle_i);

endmodule

bind residue_row_pack residue_row_pack_bins #(.Rows(Rows)) i_bins (
  .clk, .beat_i(m_valid && m_ready), .keep_i(m_keep), .last_i(m_last),
  .beat_waits_i(m_valid && !m_ready), .row_waits_i(s_valid && !s_ready), .clear_i,
  .idle_i(idle_o)
);

`default_nettype wire
