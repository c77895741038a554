// Makes rows of the ring's result words and writes them where the product's tag says.
//
// A row is two words, or the one word of a Karatsuba ring. `to_acc` results go to their accumulator
// (the last ones need not, and leave the port to loads), `to_table` results to the table store,
// `emit` results to the emit queue. No back-pressure: the issuer reserved the room. `retire_o`
// pulses with the write of a result's last row. clear_i zeroes the registers that hold words.
`default_nettype none

module residue_writeback #(
  parameter int unsigned WordBits   = 51,
  parameter bit          Karatsuba  = 1'b0,
  parameter int unsigned AccRowBits = 13,
  parameter int unsigned TabRowBits = 15,
  localparam int unsigned RingBits  = Karatsuba ? 2 * WordBits : WordBits
) (
  input  wire  logic                  clk,
  input  wire  logic                  rst_n,
  input  wire  logic                  clear_i,
  // Result words of the ring, in order
  input  wire  logic                  res_valid_i,
  input  wire  logic                  res_first_i,
  input  wire  logic                  res_last_i,
  input  wire  logic [RingBits-1:0]   res_data_i,
  input  wire  logic [AccRowBits-1:0] res_acc_row_i,
  input  wire  logic                  res_to_acc_i,
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

  logic                  high;        // this word completes its row
  logic [2*WordBits-1:0] pair;
  logic [AccRowBits-1:0] row_q;       // row within the result, counted from the tag's row

  wire logic [AccRowBits-1:0] row = res_first_i ? '0 : row_q;

  if (Karatsuba) begin : g_word
    assign high = 1'b1;
    assign pair = res_data_i;
  end else begin : g_pair
    logic                high_q;
    logic [WordBits-1:0] low_q;
    assign high = high_q && !res_first_i;
    assign pair = {res_data_i, low_q};
    always_ff @(posedge clk) begin
      if (!rst_n)           high_q <= 1'b0;
      else if (res_valid_i) high_q <= !high;
      if (clear_i)          low_q <= '0;
      else if (res_valid_i) low_q <= res_data_i;
    end
  end

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      acc_wen_o      <= 1'b0;
      tab_wen_o      <= 1'b0;
      emit_wen_o     <= 1'b0;
      retire_o       <= 1'b0;
      retire_round_o <= 1'b0;
      retire_group_o <= 1'b0;
    end else begin
      acc_wen_o      <= res_valid_i && high && res_to_acc_i;
      tab_wen_o      <= res_valid_i && high && res_to_table_i;
      emit_wen_o     <= res_valid_i && high && res_emit_i;
      retire_o       <= res_valid_i && res_last_i;
      retire_round_o <= res_valid_i && res_last_i && res_last_of_round_i;
      retire_group_o <= res_valid_i && res_last_i && res_last_of_group_i;
    end
    if (res_valid_i) begin
      row_q      <= row + AccRowBits'(high);
      acc_wrow_o <= res_acc_row_i + row;
      tab_wrow_o <= res_tab_row_i + TabRowBits'(row);
    end
    if (clear_i)          wdata_o <= '0;
    else if (res_valid_i) wdata_o <= pair;
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk) begin
    if (rst_n && res_valid_i && res_last_i) a_even_words : assert (high);
  end
`endif

endmodule

`default_nettype wire
