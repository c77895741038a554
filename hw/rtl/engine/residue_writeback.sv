// Pairs the ring's result words and writes them where the product's tag says.
//
// Every result goes to its accumulator; `to_table` results also to the table store; `emit` results
// also to the emit queue. No back-pressure: the issuer reserved the room. `retire_o` pulses after
// a result's last row was written.
`default_nettype none

module residue_writeback #(
  parameter int unsigned WordBits   = 51,
  parameter int unsigned AccRowBits = 13,
  parameter int unsigned TabRowBits = 15
) (
  input  wire  logic                  clk,
  input  wire  logic                  rst_n,
  // Result words of the ring, in order
  input  wire  logic                  res_valid_i,
  input  wire  logic                  res_first_i,
  input  wire  logic                  res_last_i,
  input  wire  logic [WordBits-1:0]   res_data_i,
  input  wire  logic [AccRowBits-1:0] res_acc_row_i,
  input  wire  logic                  res_to_table_i,
  input  wire  logic [TabRowBits-1:0] res_tab_row_i,
  input  wire  logic                  res_emit_i,
  input  wire  logic                  res_last_of_round_i,
  input  wire  logic                  res_last_of_group_i,
  // Store writes
  output       logic                  acc_wen_o,
  output       logic [AccRowBits-1:0] acc_wrow_o,
  output       logic                  tab_wen_o,
  output       logic [TabRowBits-1:0] tab_wrow_o,
  output       logic                  emit_wen_o,
  output       logic [2*WordBits-1:0] wdata_o,
  // Pulses
  output       logic                  retire_o,
  output       logic                  retire_round_o,
  output       logic                  retire_group_o
);

  logic                  high_q;      // the next word is the upper one of its pair
  logic [WordBits-1:0]   low_q;
  logic [AccRowBits-1:0] row_q;       // row within the result, counted from the tag's row

  wire logic high = high_q && !res_first_i;
  wire logic [AccRowBits-1:0] row = res_first_i ? '0 : row_q;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      high_q         <= 1'b0;
      acc_wen_o      <= 1'b0;
      tab_wen_o      <= 1'b0;
      emit_wen_o     <= 1'b0;
      retire_o       <= 1'b0;
      retire_round_o <= 1'b0;
      retire_group_o <= 1'b0;
    end else begin
      if (res_valid_i) high_q <= !high;
      acc_wen_o      <= res_valid_i && high;
      tab_wen_o      <= res_valid_i && high && res_to_table_i;
      emit_wen_o     <= res_valid_i && high && res_emit_i;
      retire_o       <= res_valid_i && res_last_i;
      retire_round_o <= res_valid_i && res_last_i && res_last_of_round_i;
      retire_group_o <= res_valid_i && res_last_i && res_last_of_group_i;
    end
    if (res_valid_i) begin
      low_q      <= res_data_i;
      row_q      <= row + AccRowBits'(high);
      acc_wrow_o <= res_acc_row_i + row;
      tab_wrow_o <= res_tab_row_i + TabRowBits'(row);
      wdata_o    <= {res_data_i, low_q};
    end
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk) begin
    if (rst_n && res_valid_i && res_last_i) a_even_words : assert (high);
  end
`endif

endmodule

`default_nettype wire
