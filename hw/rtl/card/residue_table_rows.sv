// Fetches the rows of a comb or power table for all lanes of a cluster.
//
// The lanes of a cluster use the same rows in the same order, so each row is read once: as soon as
// every busy lane has room for it, its 2^w residues are asked for, to be written to the stores of
// those lanes. A lane with fewer groups than the others is idle after its last one.
// Addresses and times follow from the command's public fields and the lanes' pace alone.
`default_nettype none

module residue_table_rows
  import residue_engine_pkg::*;
#(
  parameter int unsigned Lanes   = 2,
  parameter int unsigned RowBits = 16
) (
  input  wire  logic               clk,
  input  wire  logic               rst_n,
  input  wire  logic               abort_i,
  input  wire  job_t               job_i,
  output       logic               busy_o,
  // Loaders
  input  wire  logic [Lanes-1:0]   lane_busy_i,
  input  wire  logic [Lanes-1:0]   want_i,
  output       logic               taken_o,      // pulse: all of the row is asked for
  // Read requests into the table stores
  output       logic               m_req_valid,
  input  wire  logic               m_req_ready,
  output       logic [63:0]        m_req_addr,
  output       logic [15:0]        m_req_rows,
  output       logic [RowBits-1:0] m_req_row,
  output       logic               m_req_last,   // the row's last residue
  output       logic [Lanes-1:0]   m_req_targets
);

  logic               asking_q;
  logic [8:0]         entry_q;
  logic [31:0]        round_q;
  logic               parity_q;   // which of the two rows in the stores
  logic [63:0]        addr_q;
  logic [RowBits-1:0] row_q;
  logic               wanted_q;   // by all busy lanes; a row that is taken is wanted no more
  logic               resting_q;  // no lane is busy

  wire logic [3:0] entries_log2 = 4'd1 << job_i.window_log2;
  wire logic [8:0] entries = 9'd1 << entries_log2;
  wire logic [RowBits-1:0] rows = RowBits'(job_i.rows);
  wire logic [RowBits-1:0] first_row = RowBits'(f_residue_rows(2'(TabFirst), job_i.rows));
  wire logic taken = m_req_valid && m_req_ready;
  // A lane that is being stopped may want no more what it wanted a cycle ago.
  wire logic begins = !asking_q && !taken_o && wanted_q && (want_i != '0);

  assign busy_o      = asking_q;
  assign m_req_valid = asking_q;
  assign m_req_addr  = addr_q;
  assign m_req_rows  = 16'(job_i.rows);
  assign m_req_row   = row_q;
  assign m_req_last  = (entry_q + 9'd1 == entries);

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      asking_q <= 1'b0;
      taken_o  <= 1'b0;
    end else begin
      taken_o <= taken && m_req_last;
      if (asking_q) asking_q <= !(taken && (m_req_last || abort_i));
      else          asking_q <= begins && !abort_i;
    end

    wanted_q  <= !taken_o && (want_i != '0) && ((want_i | ~lane_busy_i) == '1);
    resting_q <= (lane_busy_i == '0);

    // A command begins with idle lanes, a group with the table's first row.
    if (resting_q) begin
      parity_q <= 1'b0;
      round_q  <= '0;
      addr_q   <= job_i.table_addr;
    end else if (taken) begin
      addr_q <= addr_q + {44'd0, job_i.stride_b, 4'd0};
      if (m_req_last) begin
        parity_q <= !parity_q;
        round_q  <= round_q + 32'd1;
        if (round_q + 32'd1 == job_i.length) begin
          round_q <= '0;
          addr_q  <= job_i.table_addr;
        end
      end
    end

    if (!asking_q) begin
      entry_q       <= '0;
      row_q         <= first_row + (parity_q ? rows << entries_log2 : '0);
      m_req_targets <= want_i;
    end else if (taken) begin
      entry_q <= entry_q + 9'd1;
      row_q   <= row_q + rows;
    end
  end

`ifndef SYNTHESIS
  a_holds : assert property (@(posedge clk) disable iff (!rst_n)
      m_req_valid && !m_req_ready |=> m_req_valid && $stable(m_req_addr));
`endif

endmodule

`default_nettype wire
