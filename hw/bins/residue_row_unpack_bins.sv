// Functional bins of residue_row_unpack: how rows lay in beats, and what waits.
`default_nettype none

module residue_row_unpack_bins #(
  parameter int unsigned Rows      = 1,
  parameter int unsigned PlaceBits = 1
) (
  input wire logic                 clk,
  input wire logic                 beat_i,       // enters
  input wire logic [PlaceBits-1:0] low_i,
  input wire logic [PlaceBits-1:0] high_i,
  input wire logic                 error_i,
  input wire logic                 room_i,
  input wire logic                 row_waits_i,
  input wire logic                 clear_i,
  input wire logic                 idle_i
);

  c_whole_beat    : cover property (@(posedge clk)
      beat_i && Rows > 1 && low_i == '0 && high_i == PlaceBits'(Rows - 1));
  c_begins_inside : cover property (@(posedge clk) beat_i && low_i != '0);
  c_ends_inside   : cover property (@(posedge clk) beat_i && high_i != PlaceBits'(Rows - 1));
  c_error         : cover property (@(posedge clk) beat_i && error_i);
  c_no_room       : cover property (@(posedge clk) !room_i);
  c_row_waits     : cover property (@(posedge clk) row_waits_i);
  c_cleared       : cover property (@(posedge clk) clear_i && !idle_i);

endmodule

bind residue_row_unpack residue_row_unpack_bins #(.Rows(Rows), .PlaceBits(PlaceBits)) i_bins (
  .clk, .beat_i(s_valid), .low_i(s_low), .high_i(s_high), .error_i(s_error), .room_i(room_o),
  .row_waits_i(m_valid && !m_ready), .clear_i, .idle_i(idle_o)
);

`default_nettype wire
