// Functional bins of residue_dma_split: how requests fell into bursts.
`default_nettype none

module residue_dma_split_bins (
  input wire logic        clk,
  input wire logic        valid_i,
  input wire logic        ready_i,
  input wire logic        last_i,
  input wire logic        bad_i,
  input wire logic [15:0] beats_i,
  input wire logic        page_end_i,   // the burst ends with a page of 4 KiB
  input wire logic        clear_i
);

  wire logic done = valid_i && ready_i;
  c_one_beat        : cover property (@(posedge clk) done && !bad_i && beats_i == 16'd1);
  c_full_burst      : cover property (@(posedge clk) done && !bad_i && beats_i == 16'd64);
  c_split           : cover property (@(posedge clk) done && !last_i);
  c_split_at_4_kib  : cover property (@(posedge clk) done && !last_i && page_end_i);
  c_ends_with_page  : cover property (@(posedge clk) done && last_i && !bad_i && page_end_i);
  c_refused         : cover property (@(posedge clk) done && bad_i);
  c_back_pressure   : cover property (@(posedge clk) valid_i && !ready_i);
  c_dropped         : cover property (@(posedge clk) valid_i && clear_i);

endmodule

bind residue_dma_split residue_dma_split_bins i_bins (
  .clk, .valid_i(m_burst_valid), .ready_i(m_burst_ready), .last_i(m_burst_last),
  .bad_i(m_burst_bad), .beats_i(m_burst_beats),
  .page_end_i(12'(m_burst_addr[11:0] + 12'(m_burst_beats << BeatLog2)) == '0), .clear_i
);

`default_nettype wire
